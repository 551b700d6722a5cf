/* The header stands alone and is C11. */
#include "flashvsr.h"

_Static_assert(offsetof(flashvsr_model_options, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(flashvsr_stream_options, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(flashvsr_image, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(flashvsr_model_info, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(flashvsr_stream_info, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(flashvsr_stats, struct_size) == 0, "struct_size comes first");

int main(void) { return 0; }
