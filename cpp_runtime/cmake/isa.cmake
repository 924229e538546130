# Kernel files and the flags only they may have: everything else is built for the baseline of the target.
include(CheckCXXSourceCompiles)

if(MSVC)
  set(LCNN_AVX2_FLAGS /arch:AVX2)
  set(LCNN_AVX512_FLAGS /arch:AVX512)
  set(LCNN_SCALAR_FLAGS "")
else()
  set(LCNN_AVX2_FLAGS -mavx2 -mfma -mf16c)
  set(LCNN_AVX512_FLAGS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c)
  # The scalar kernels are the baseline that the others are measured against.
  set(LCNN_SCALAR_FLAGS -fno-tree-vectorize)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    list(APPEND LCNN_SCALAR_FLAGS -fno-slp-vectorize)
  else()
    # GCC 12's own avx512fintrin.h initialises a variable with itself to say "undefined".
    list(APPEND LCNN_AVX512_FLAGS -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
endif()

check_cxx_source_compiles("
#if !defined(__x86_64__) && !defined(_M_X64)
#error not x86-64
#endif
int main() { return 0; }" LCNN_TARGET_X86_64)

check_cxx_source_compiles("
#if !defined(__aarch64__) && !defined(_M_ARM64)
#error not aarch64
#endif
int main() { return 0; }" LCNN_TARGET_AARCH64)

set(LCNN_AVXVNNI_FLAGS ${LCNN_AVX2_FLAGS})
set(LCNN_AVX512VNNI_FLAGS ${LCNN_AVX512_FLAGS})
if(NOT MSVC)
  list(APPEND LCNN_AVXVNNI_FLAGS -mavxvnni)
  list(APPEND LCNN_AVX512VNNI_FLAGS -mavx512vnni)
endif()
set(LCNN_AVX512BF16_FLAGS ${LCNN_AVX512VNNI_FLAGS})
if(NOT MSVC)
  list(APPEND LCNN_AVX512BF16_FLAGS -mavx512bf16)
endif()
set(LCNN_AMX_FLAGS ${LCNN_AVX512BF16_FLAGS})
if(NOT MSVC)
  list(APPEND LCNN_AMX_FLAGS -mamx-tile -mamx-int8 -mamx-bf16)
endif()

set(LCNN_SUFFIXES scalar)
if(LCNN_TARGET_X86_64)
  list(APPEND LCNN_SUFFIXES avx2 avxvnni avx512 avx512vnni avx512bf16 amx)
endif()
if(LCNN_TARGET_AARCH64)
  list(APPEND LCNN_SUFFIXES neon)  # no flags: NEON is part of the baseline
endif()

# Adds the kernels of a family, <family>_<suffix>.cc for each of the suffixes given that this target has, with its flags.
function(lcnn_add_kernels target family)
  if(LCNN_TARGET_X86_64)
    target_compile_definitions(${target} PRIVATE LCNN_HAVE_X86_KERNELS)
  endif()
  if(LCNN_TARGET_AARCH64)
    target_compile_definitions(${target} PRIVATE LCNN_HAVE_AARCH64_KERNELS)
  endif()
  foreach(suffix IN LISTS ARGN)
    if(suffix IN_LIST LCNN_SUFFIXES)
      string(TOUPPER ${suffix} upper)
      target_sources(${target} PRIVATE ${family}_${suffix}.cc)
      set_source_files_properties(${family}_${suffix}.cc PROPERTIES COMPILE_OPTIONS "${LCNN_${upper}_FLAGS}")
    endif()
  endforeach()
endfunction()
