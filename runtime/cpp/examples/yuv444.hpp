// 8-bit planar 4:4:4 to RGB and back, in integers.
//
// With limited range these are the numbers of FFmpeg's scaler as the command line uses it, for every colour that RGB
// can show, so that both programs give the same bytes: 13-bit (decoding) and 15-bit (encoding) coefficients, BT.601's
// encoding ones from its three-decimal form. Full range is rounded to the nearest value.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace yuv444 {

struct Weights {
  double red, blue;  // of luma
  double green() const { return 1.0 - red - blue; }
};

inline Weights weights(bool bt709) { return bt709 ? Weights{0.2126, 0.0722} : Weights{0.299, 0.114}; }

class Decoder {
 public:
  Decoder(bool bt709, bool full_range) : black_(full_range ? 0 : 16) {
    const Weights w = weights(bt709);
    const double luma = full_range ? 1.0 : 255.0 / 219.0, chroma = full_range ? 1.0 : 255.0 / 224.0;
    luma_ = fixed(luma);
    red_ = fixed(2.0 * (1.0 - w.red) * chroma);
    blue_ = fixed(2.0 * (1.0 - w.blue) * chroma);
    green_u_ = -fixed(2.0 * (1.0 - w.blue) * w.blue / w.green() * chroma);
    green_v_ = -fixed(2.0 * (1.0 - w.red) * w.red / w.green() * chroma);
  }

  // Planes of `pixels` samples, one behind the other, to packed RGB.
  void operator()(const unsigned char* planes, std::size_t pixels, unsigned char* rgb) const {
    for (std::size_t i = 0; i < pixels; ++i, rgb += 3) {
      const int y = (planes[i] - black_) * luma_, u = planes[pixels + i] - 128, v = planes[2 * pixels + i] - 128;
      rgb[0] = byte(y + v * red_);
      rgb[1] = byte(y + u * green_u_ + v * green_v_);
      rgb[2] = byte(y + u * blue_);
    }
  }

 private:
  static int fixed(double x) { return static_cast<int>(std::floor(x * 8192.0 + 0.5)); }
  static unsigned char byte(int sum) {
    return static_cast<unsigned char>(std::clamp((sum + 4096) >> 13, 0, 255));
  }

  int black_, luma_, red_, blue_, green_u_, green_v_;
};

class Encoder {
 public:
  Encoder(bool bt709, bool full_range) : black_(full_range ? 0 : 16) {
    const Weights w = weights(bt709);
    const double luma = full_range ? 1.0 : 219.0 / 255.0, chroma = full_range ? 1.0 : 224.0 / 255.0;
    const bool rounded = !bt709 && !full_range;
    const auto part = [rounded](double x) { return rounded ? std::floor(x * 1000.0 + 0.5) / 1000.0 : x; };
    const double to_u = 0.5 / (1.0 - w.blue), to_v = 0.5 / (1.0 - w.red);
    set(y_, luma * w.red, luma * w.green(), luma * w.blue);
    set(u_, -chroma * part(w.red * to_u), -chroma * part(w.green() * to_u), chroma * 0.5);
    set(v_, chroma * 0.5, -chroma * part(w.green() * to_v), -chroma * part(w.blue * to_v));
  }

  void operator()(const unsigned char* rgb, std::size_t pixels, unsigned char* planes) const {
    for (std::size_t i = 0; i < pixels; ++i, rgb += 3) {
      planes[i] = byte(y_, rgb, black_);
      planes[pixels + i] = byte(u_, rgb, 128);
      planes[2 * pixels + i] = byte(v_, rgb, 128);
    }
  }

 private:
  static void set(int (&row)[3], double red, double green, double blue) {
    const double values[3] = {red, green, blue};
    for (int c = 0; c < 3; ++c)
      row[c] = static_cast<int>(values[c] < 0 ? -std::floor(-values[c] * 32768.0 + 0.5)
                                              : std::floor(values[c] * 32768.0 + 0.5));
  }

  // Rounded to 6 fractional bits, then to none.
  static unsigned char byte(const int (&row)[3], const unsigned char* rgb, int offset) {
    const int sum = row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2] + offset * 32768;
    return static_cast<unsigned char>(std::clamp((((sum + 256) >> 9) + 32) >> 6, 0, 255));
  }

  int black_;
  int y_[3], u_[3], v_[3];
};

}  // namespace yuv444
