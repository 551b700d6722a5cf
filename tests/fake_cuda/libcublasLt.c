// A cuBLASLt that computes nothing: each product is written to the file that FAKE_CUDA_LOG names, as
// "matmul TYPE weight x TYPE x -> TYPE, rows x columns x inner, epilogue N, and what else is set". Numbers are cuBLASLt's.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int compute, scale; int64_t set[64]; int has[64]; } Operation;
typedef struct { int type; uint64_t rows, columns; int64_t leading; } Layout;

static const char* name_of(int type) { return type == 2 ? "f16" : type == 14 ? "bf16" : type == 28 ? "e4m3" : "?"; }

int cublasLtCreate(void** handle) { *handle = (void*)1; return 0; }
int cublasLtMatmulDescCreate(void** made, int compute, int scale) {
  Operation* operation = calloc(1, sizeof *operation);
  operation->compute = compute, operation->scale = scale;
  *made = operation;
  return 0;
}
int cublasLtMatmulDescSetAttribute(void* at, int which, const void* value, size_t size) {
  Operation* operation = at;
  if (which < 0 || which > 63 || size > 8) return 7;
  operation->set[which] = 0;
  memcpy(&operation->set[which], value, size);
  operation->has[which] = (int)size;
  return 0;
}
int cublasLtMatmulDescDestroy(void* operation) { free(operation); return 0; }
int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  Layout* layout = malloc(sizeof *layout);
  *layout = (Layout){type, rows, columns, leading};
  *made = layout;
  return 0;
}
int cublasLtMatrixLayoutDestroy(void* layout) { free(layout); return 0; }
int cublasLtMatmulPreferenceCreate(void** made) { *made = (void*)1; return 0; }
int cublasLtMatmulPreferenceSetAttribute(void* at, int which, const void* value, size_t size) {
  (void)at; (void)value;
  return which == 1 && size == 8 ? 0 : 7;
}
int cublasLtMatmulPreferenceDestroy(void* at) { (void)at; return 0; }
int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                   int wanted, void* results, int* count) {
  (void)handle; (void)operation; (void)a; (void)b; (void)c; (void)preference; (void)results;
  *count = wanted;
  return getenv("FAKE_CUBLASLT_NO_E4M3") != NULL && ((const Layout*)d)->type == 28 ? 15 : 0;
}
int cublasLtMatmul(void* handle, void* at, const float* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const float* beta, const void* c, void* c_layout, void* d, void* d_layout,
                   const uint64_t* algorithm, void* workspace, size_t bytes, void* stream) {
  const Operation* op = at;
  const Layout *of_a = a_layout, *of_b = b_layout, *of_c = c_layout, *of_d = d_layout;
  (void)handle; (void)algorithm; (void)stream;
  if (!a || !b || (!c && *beta != 0.0f) || !d || !workspace || !bytes || *alpha != 1.0f) return 7;
  if (c == d && of_c->type != of_d->type) return 7;
  if (op->has[26] != 4 || (int)op->set[26] != of_c->type) return 7;  // the bias's type
  if (of_c->rows != of_d->rows || of_c->columns != of_d->columns || of_c->leading != of_d->leading) return 7;
  if (op->compute != 68 || op->scale != 0 || op->set[3] != 1 || !op->set[8]) return 7;  // float32, A transposed, a bias
  if (of_a->leading != (int64_t)of_a->rows || of_b->rows != of_a->rows || of_d->rows != of_a->columns) return 7;
  FILE* log = fopen(getenv("FAKE_CUDA_LOG"), "a");
  fprintf(log, "matmul %s weight, %s x, %s residual, %s out, %lux%lux%lu, epilogue %d, plus %g", name_of(of_a->type),
          name_of(of_b->type), name_of(of_c->type), name_of(of_d->type), of_b->columns, of_a->columns, of_a->rows,
          (int)op->set[7], *beta);
  // How far the scales of the weight and of the result lie behind that of x.
  if (op->has[17] && op->has[18]) fprintf(log, ", scales %ld", (long)(op->set[17] - op->set[18]));
  if (op->has[20] && op->set[20]) fprintf(log, ", %ld", (long)(op->set[20] - op->set[18]));
  if (op->has[25] == 1 && op->set[25] == 1) fprintf(log, ", fast");
  fprintf(log, "\n");
  return fclose(log);
}
