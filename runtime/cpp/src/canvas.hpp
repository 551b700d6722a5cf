// Source frames to LQ frames: bicubic to the output size, then padded or cropped to the canvas.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "memory.hpp"
#include "schedule.hpp"

namespace flashvsr {

// Weights of one axis: output `i` is the sum of `count[i]` inputs from `first[i]` on, in 22-bit fixed point.
struct Taps {
  std::int64_t width = 0;  // weights a row of the table holds
  std::vector<std::int64_t> first;
  std::vector<std::int64_t> count;
  std::vector<std::int32_t> weights;  // [outputs, width]
};

// Bicubic with a = -0.5; when the picture shrinks the kernel widens; taps outside the picture are dropped and the
// others renormalised.
Taps bicubic_taps(std::int64_t input, std::int64_t output);

// Gives the bytes of Pillow's bicubic resize on 8-bit RGB: horizontal pass first, each pass rounded to 8 bits. (Where
// a side shrinks Pillow 13 may begin with the vertical one, which differs by a rounding.)
class CanvasMaker {
 public:
  CanvasMaker(Size source, const Canvas& canvas, const std::shared_ptr<Allocator>& allocator);

  // rgb [source height, source width, 3] with `stride` bytes a row -> lq [canvas height, canvas width, 3], dense.
  void operator()(const std::uint8_t* rgb, std::size_t stride, std::uint8_t* lq) const;

 private:
  void resize_rows(const std::uint8_t* rgb, std::size_t stride) const;
  void resize_columns(const std::uint8_t* rows, std::size_t stride, std::uint8_t* lq) const;

  Size source_;
  Canvas canvas_;
  Size cut_;  // part of the canvas that the resized source covers
  Taps horizontal_, vertical_;
  std::shared_ptr<Block> rows_;  // [source height, resized width, 3]
};

}  // namespace flashvsr
