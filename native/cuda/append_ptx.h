// Written by benchmarks/pins/append.py from append.cu with nvcc 13.0.
#pragma once

namespace alibi::cuda {

constexpr char const* kAppendPtx = R"ptx(
.version 7.0
.target sm_80
.address_size 64
.visible .entry alibi_append_16(
	.param .align 8 .b8 alibi_append_16_param_0[136]
)
{
	.reg .pred 	%p<7>;
	.reg .b32 	%r<35>;
	.reg .b64 	%rd<46>;
	mov.b64 	%rd10, alibi_append_16_param_0;
	add.s64 	%rd2, %rd10, 128;
	ld.param.v2.u32 	{%r10, %r11}, [alibi_append_16_param_0+128];
	mov.u32 	%r13, %ntid.x;
	div.u32 	%r14, %r13, %r11;
	mov.u32 	%r15, %ctaid.x;
	mov.u32 	%r2, %tid.x;
	div.u32 	%r16, %r2, %r11;
	mad.lo.s32 	%r3, %r14, %r15, %r16;
	setp.ge.u32 	%p1, %r3, %r10;
	@%p1 bra 	$L__BB0_5;
	ld.param.v2.u32 	{%r17, %r18}, [%rd2+-8];
	div.u32 	%r20, %r3, %r17;
	div.u32 	%r21, %r20, %r18;
	mul.lo.s32 	%r22, %r21, %r18;
	sub.s32 	%r23, %r20, %r22;
	ld.param.u64 	%rd11, [%rd2+-32];
	cvta.to.global.u64 	%rd12, %rd11;
	cvt.u64.u32 	%rd3, %r21;
	ld.param.u64 	%rd13, [%rd2+-24];
	mul.lo.s64 	%rd14, %rd13, %rd3;
	shl.b64 	%rd15, %rd14, 3;
	add.s64 	%rd16, %rd12, %rd15;
	ld.param.u32 	%rd17, [%rd2+-4];
	ld.global.u64 	%rd18, [%rd16];
	sub.s64 	%rd19, %rd18, %rd17;
	cvt.u64.u32 	%rd4, %r23;
	add.s64 	%rd5, %rd19, %rd4;
	setp.lt.s64 	%p2, %rd5, 0;
	ld.param.u64 	%rd6, [%rd2+-16];
	setp.ge.s64 	%p3, %rd5, %rd6;
	or.pred  	%p4, %p2, %p3;
	@%p4 bra 	$L__BB0_5;
	cvt.u64.u32 	%rd20, %r17;
	mul.lo.s64 	%rd21, %rd20, %rd3;
	rem.u32 	%r24, %r3, %r17;
	cvt.u64.u32 	%rd22, %r24;
	add.s64 	%rd23, %rd21, %rd22;
	mov.u32 	%r25, %ctaid.y;
	mul.wide.u32 	%rd24, %r25, 48;
	add.s64 	%rd25, %rd10, %rd24;
	ld.param.u64 	%rd26, [%rd25+8];
	cvta.to.global.u64 	%rd27, %rd26;
	ld.param.u64 	%rd28, [%rd25+16];
	mul.lo.s64 	%rd29, %rd28, %rd3;
	ld.param.u64 	%rd30, [%rd25+24];
	mul.lo.s64 	%rd31, %rd30, %rd22;
	add.s64 	%rd32, %rd31, %rd29;
	ld.param.u64 	%rd33, [%rd25+32];
	mul.lo.s64 	%rd34, %rd33, %rd4;
	add.s64 	%rd35, %rd32, %rd34;
	add.s64 	%rd7, %rd27, %rd35;
	ld.param.u64 	%rd36, [%rd25];
	cvta.to.global.u64 	%rd8, %rd36;
	mul.lo.s64 	%rd37, %rd6, %rd23;
	add.s64 	%rd38, %rd37, %rd5;
	ld.param.u32 	%r5, [%rd25+40];
	cvt.u64.u32 	%rd39, %r5;
	mul.lo.s64 	%rd9, %rd38, %rd39;
	rem.u32 	%r34, %r2, %r11;
	setp.ge.u32 	%p5, %r34, %r5;
	@%p5 bra 	$L__BB0_5;
	ld.param.u32 	%r7, [%rd2+4];
$L__BB0_4:
	cvt.u64.u32 	%rd40, %r34;
	add.s64 	%rd41, %rd9, %rd40;
	shl.b64 	%rd42, %rd41, 4;
	add.s64 	%rd43, %rd8, %rd42;
	mul.wide.u32 	%rd44, %r34, 16;
	add.s64 	%rd45, %rd7, %rd44;
	ld.global.v4.u32 	{%r26, %r27, %r28, %r29}, [%rd45];
	st.global.v4.u32 	[%rd43], {%r26, %r27, %r28, %r29};
	add.s32 	%r34, %r7, %r34;
	setp.lt.u32 	%p6, %r34, %r5;
	@%p6 bra 	$L__BB0_4;
$L__BB0_5:
	ret;
}
.visible .entry alibi_append_4(
	.param .align 8 .b8 alibi_append_4_param_0[136]
)
{
	.reg .pred 	%p<7>;
	.reg .b32 	%r<28>;
	.reg .b64 	%rd<46>;
	mov.b64 	%rd10, alibi_append_4_param_0;
	add.s64 	%rd2, %rd10, 128;
	ld.param.v2.u32 	{%r10, %r11}, [alibi_append_4_param_0+128];
	mov.u32 	%r13, %ntid.x;
	div.u32 	%r14, %r13, %r11;
	mov.u32 	%r15, %ctaid.x;
	mov.u32 	%r2, %tid.x;
	div.u32 	%r16, %r2, %r11;
	mad.lo.s32 	%r3, %r14, %r15, %r16;
	setp.ge.u32 	%p1, %r3, %r10;
	@%p1 bra 	$L__BB1_5;
	ld.param.v2.u32 	{%r17, %r18}, [%rd2+-8];
	div.u32 	%r20, %r3, %r17;
	div.u32 	%r21, %r20, %r18;
	mul.lo.s32 	%r22, %r21, %r18;
	sub.s32 	%r23, %r20, %r22;
	ld.param.u64 	%rd11, [%rd2+-32];
	cvta.to.global.u64 	%rd12, %rd11;
	cvt.u64.u32 	%rd3, %r21;
	ld.param.u64 	%rd13, [%rd2+-24];
	mul.lo.s64 	%rd14, %rd13, %rd3;
	shl.b64 	%rd15, %rd14, 3;
	add.s64 	%rd16, %rd12, %rd15;
	ld.param.u32 	%rd17, [%rd2+-4];
	ld.global.u64 	%rd18, [%rd16];
	sub.s64 	%rd19, %rd18, %rd17;
	cvt.u64.u32 	%rd4, %r23;
	add.s64 	%rd5, %rd19, %rd4;
	setp.lt.s64 	%p2, %rd5, 0;
	ld.param.u64 	%rd6, [%rd2+-16];
	setp.ge.s64 	%p3, %rd5, %rd6;
	or.pred  	%p4, %p2, %p3;
	@%p4 bra 	$L__BB1_5;
	cvt.u64.u32 	%rd20, %r17;
	mul.lo.s64 	%rd21, %rd20, %rd3;
	rem.u32 	%r24, %r3, %r17;
	cvt.u64.u32 	%rd22, %r24;
	add.s64 	%rd23, %rd21, %rd22;
	mov.u32 	%r25, %ctaid.y;
	mul.wide.u32 	%rd24, %r25, 48;
	add.s64 	%rd25, %rd10, %rd24;
	ld.param.u64 	%rd26, [%rd25+8];
	cvta.to.global.u64 	%rd27, %rd26;
	ld.param.u64 	%rd28, [%rd25+16];
	mul.lo.s64 	%rd29, %rd28, %rd3;
	ld.param.u64 	%rd30, [%rd25+24];
	mul.lo.s64 	%rd31, %rd30, %rd22;
	add.s64 	%rd32, %rd31, %rd29;
	ld.param.u64 	%rd33, [%rd25+32];
	mul.lo.s64 	%rd34, %rd33, %rd4;
	add.s64 	%rd35, %rd32, %rd34;
	add.s64 	%rd7, %rd27, %rd35;
	ld.param.u64 	%rd36, [%rd25];
	cvta.to.global.u64 	%rd8, %rd36;
	mul.lo.s64 	%rd37, %rd6, %rd23;
	add.s64 	%rd38, %rd37, %rd5;
	ld.param.u32 	%r5, [%rd25+40];
	cvt.u64.u32 	%rd39, %r5;
	mul.lo.s64 	%rd9, %rd38, %rd39;
	rem.u32 	%r27, %r2, %r11;
	setp.ge.u32 	%p5, %r27, %r5;
	@%p5 bra 	$L__BB1_5;
	ld.param.u32 	%r7, [%rd2+4];
$L__BB1_4:
	cvt.u64.u32 	%rd40, %r27;
	mul.wide.u32 	%rd41, %r27, 4;
	add.s64 	%rd42, %rd7, %rd41;
	ld.global.u32 	%r26, [%rd42];
	add.s64 	%rd43, %rd9, %rd40;
	shl.b64 	%rd44, %rd43, 2;
	add.s64 	%rd45, %rd8, %rd44;
	st.global.u32 	[%rd45], %r26;
	add.s32 	%r27, %r7, %r27;
	setp.lt.u32 	%p6, %r27, %r5;
	@%p6 bra 	$L__BB1_4;
$L__BB1_5:
	ret;
}
.visible .entry alibi_append_2(
	.param .align 8 .b8 alibi_append_2_param_0[136]
)
{
	.reg .pred 	%p<7>;
	.reg .b16 	%rs<2>;
	.reg .b32 	%r<27>;
	.reg .b64 	%rd<46>;
	mov.b64 	%rd10, alibi_append_2_param_0;
	add.s64 	%rd2, %rd10, 128;
	ld.param.v2.u32 	{%r10, %r11}, [alibi_append_2_param_0+128];
	mov.u32 	%r13, %ntid.x;
	div.u32 	%r14, %r13, %r11;
	mov.u32 	%r15, %ctaid.x;
	mov.u32 	%r2, %tid.x;
	div.u32 	%r16, %r2, %r11;
	mad.lo.s32 	%r3, %r14, %r15, %r16;
	setp.ge.u32 	%p1, %r3, %r10;
	@%p1 bra 	$L__BB2_5;
	ld.param.v2.u32 	{%r17, %r18}, [%rd2+-8];
	div.u32 	%r20, %r3, %r17;
	div.u32 	%r21, %r20, %r18;
	mul.lo.s32 	%r22, %r21, %r18;
	sub.s32 	%r23, %r20, %r22;
	ld.param.u64 	%rd11, [%rd2+-32];
	cvta.to.global.u64 	%rd12, %rd11;
	cvt.u64.u32 	%rd3, %r21;
	ld.param.u64 	%rd13, [%rd2+-24];
	mul.lo.s64 	%rd14, %rd13, %rd3;
	shl.b64 	%rd15, %rd14, 3;
	add.s64 	%rd16, %rd12, %rd15;
	ld.param.u32 	%rd17, [%rd2+-4];
	ld.global.u64 	%rd18, [%rd16];
	sub.s64 	%rd19, %rd18, %rd17;
	cvt.u64.u32 	%rd4, %r23;
	add.s64 	%rd5, %rd19, %rd4;
	setp.lt.s64 	%p2, %rd5, 0;
	ld.param.u64 	%rd6, [%rd2+-16];
	setp.ge.s64 	%p3, %rd5, %rd6;
	or.pred  	%p4, %p2, %p3;
	@%p4 bra 	$L__BB2_5;
	cvt.u64.u32 	%rd20, %r17;
	mul.lo.s64 	%rd21, %rd20, %rd3;
	rem.u32 	%r24, %r3, %r17;
	cvt.u64.u32 	%rd22, %r24;
	add.s64 	%rd23, %rd21, %rd22;
	mov.u32 	%r25, %ctaid.y;
	mul.wide.u32 	%rd24, %r25, 48;
	add.s64 	%rd25, %rd10, %rd24;
	ld.param.u64 	%rd26, [%rd25+8];
	cvta.to.global.u64 	%rd27, %rd26;
	ld.param.u64 	%rd28, [%rd25+16];
	mul.lo.s64 	%rd29, %rd28, %rd3;
	ld.param.u64 	%rd30, [%rd25+24];
	mul.lo.s64 	%rd31, %rd30, %rd22;
	add.s64 	%rd32, %rd31, %rd29;
	ld.param.u64 	%rd33, [%rd25+32];
	mul.lo.s64 	%rd34, %rd33, %rd4;
	add.s64 	%rd35, %rd32, %rd34;
	add.s64 	%rd7, %rd27, %rd35;
	ld.param.u64 	%rd36, [%rd25];
	cvta.to.global.u64 	%rd8, %rd36;
	mul.lo.s64 	%rd37, %rd6, %rd23;
	add.s64 	%rd38, %rd37, %rd5;
	ld.param.u32 	%r5, [%rd25+40];
	cvt.u64.u32 	%rd39, %r5;
	mul.lo.s64 	%rd9, %rd38, %rd39;
	rem.u32 	%r26, %r2, %r11;
	setp.ge.u32 	%p5, %r26, %r5;
	@%p5 bra 	$L__BB2_5;
	ld.param.u32 	%r7, [%rd2+4];
$L__BB2_4:
	cvt.u64.u32 	%rd40, %r26;
	mul.wide.u32 	%rd41, %r26, 2;
	add.s64 	%rd42, %rd7, %rd41;
	ld.global.u16 	%rs1, [%rd42];
	add.s64 	%rd43, %rd9, %rd40;
	shl.b64 	%rd44, %rd43, 1;
	add.s64 	%rd45, %rd8, %rd44;
	st.global.u16 	[%rd45], %rs1;
	add.s32 	%r26, %r7, %r26;
	setp.lt.u32 	%p6, %r26, %r5;
	@%p6 bra 	$L__BB2_4;
$L__BB2_5:
	ret;
}
)ptx";

}  // namespace alibi::cuda
