/* The kernels' PTX as data: one text for each element type, ended by NUL. */
  .section .rodata
.macro text name, file
  .globl \name
  .hidden \name
\name:
  .incbin "\file"
  .byte 0
.endm
  text sptx_model_ptx_f32, "kernels_f32.ptx"
  text sptx_model_ptx_f16, "kernels_f16.ptx"
  text sptx_model_ptx_bf16, "kernels_bf16.ptx"
  .section .note.GNU-stack, "", @progbits
