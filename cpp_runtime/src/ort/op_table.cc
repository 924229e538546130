#include "ort/op_table.h"

#include <atomic>

namespace lcnn::ort {
namespace {

std::atomic<const OrtApi*> g_api{nullptr};

const char* LCNN_ORT_CALL GetProvider(const OrtCustomOp*) { return "CPUExecutionProvider"; }
int LCNN_ORT_CALL GetOutputType(const OrtCustomOp*, size_t) { return kElementFloat; }
size_t LCNN_ORT_CALL GetOutputTypeCount(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetOutputCharacteristic(const OrtCustomOp*, size_t) { return kInputRequired; }
int LCNN_ORT_CALL GetInputMemoryType(const OrtCustomOp*, size_t) { return kMemoryDefault; }
int LCNN_ORT_CALL GetVariadicMinArity(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetVariadicHomogeneity(const OrtCustomOp*) { return 1; }
int LCNN_ORT_CALL GetStartVersion(const OrtCustomOp*) { return 1; }
// Without an upper bound the loader would take an operator for later versions of the domain,
// whatever they mean.
int LCNN_ORT_CALL GetEndVersion(const OrtCustomOp*) { return 1; }

}  // namespace

OrtCustomOp CommonOp() {
  OrtCustomOp op = {};
  op.version = kOrtApiVersion;
  op.GetExecutionProviderType = GetProvider;
  op.GetOutputType = GetOutputType;
  op.GetOutputTypeCount = GetOutputTypeCount;
  op.GetOutputCharacteristic = GetOutputCharacteristic;
  op.GetInputMemoryType = GetInputMemoryType;
  op.GetVariadicInputMinArity = GetVariadicMinArity;
  op.GetVariadicInputHomogeneity = GetVariadicHomogeneity;
  op.GetVariadicOutputMinArity = GetVariadicMinArity;
  op.GetVariadicOutputHomogeneity = GetVariadicHomogeneity;
  op.GetStartVersion = GetStartVersion;
  op.GetEndVersion = GetEndVersion;
  return op;
}

void SetApi(const OrtApi* api) { g_api.store(api); }

const OrtApi* Api() { return g_api.load(); }

}  // namespace lcnn::ort
