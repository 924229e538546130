from lcnn_compress.bench import *
from lcnn_compress.bench import BenchSettings, Gain, compare, measure_gain, layer_times
