// In place of CUDA's header, of which TensorRT's headers use these two names only.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
