// YUV4MPEG2 on pipes: the header, and frames as planes.
#pragma once

#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace y4m {

struct Header {
  int width = 0, height = 0;
  std::string colour = "420jpeg";
  bool full_range = false;
  std::string others;  // frame rate, interlacing, aspect, comments: each with a space in front

  bool subsampled() const { return colour.rfind("420", 0) == 0; }
  std::size_t chroma_width() const { return subsampled() ? (std::size_t(width) + 1) / 2 : std::size_t(width); }
  std::size_t chroma_height() const { return subsampled() ? (std::size_t(height) + 1) / 2 : std::size_t(height); }
  std::size_t luma_bytes() const { return std::size_t(width) * std::size_t(height); }
  std::size_t chroma_bytes() const { return chroma_width() * chroma_height(); }
  std::size_t frame_bytes() const { return luma_bytes() + 2 * chroma_bytes(); }
};

// False at the end of the stream.
inline bool read_line(std::FILE* file, std::string& line) {
  line.clear();
  for (int c = std::fgetc(file); c != '\n'; c = std::fgetc(file)) {
    if (c == EOF) {
      if (line.empty()) return false;
      throw std::runtime_error("the input ends inside a y4m header");
    }
    line.push_back(static_cast<char>(c));
    if (line.size() > 4096) throw std::runtime_error("the input is not y4m");
  }
  return true;
}

inline int positive(const std::string& text) {
  if (text.empty() || text.size() > 5 || text.find_first_not_of("0123456789") != std::string::npos || std::stoi(text) < 1)
    throw std::runtime_error("the y4m size \"" + text + "\" is not 1 .. 99999");
  return std::stoi(text);
}

inline Header read_header(std::FILE* file) {
  std::string line;
  if (!read_line(file, line) || line.rfind("YUV4MPEG2 ", 0) != 0) throw std::runtime_error("the input is not y4m");
  Header header;
  for (std::size_t begin = line.find(' '); begin != std::string::npos;) {
    const std::size_t end = line.find(' ', begin + 1);
    const std::string word = line.substr(begin + 1, end == std::string::npos ? end : end - begin - 1);
    begin = end;
    if (word.empty()) continue;
    const std::string value = word.substr(1);
    if (word[0] == 'W')
      header.width = positive(value);
    else if (word[0] == 'H')
      header.height = positive(value);
    else if (word[0] == 'C')
      header.colour = value;
    else
      header.others += " " + word;
    if (word == "XCOLORRANGE=FULL") header.full_range = true;
  }
  if (header.width == 0 || header.height == 0) throw std::runtime_error("the y4m header names no size");
  return header;
}

inline void write_header(std::FILE* file, const Header& header) {
  std::fprintf(file, "YUV4MPEG2 W%d H%d C%s%s\n", header.width, header.height, header.colour.c_str(),
               header.others.c_str());
}

// Planes Y, U, V, one behind the other. False at the end of the stream.
inline bool read_frame(std::FILE* file, std::vector<unsigned char>& planes) {
  std::string line;
  if (!read_line(file, line)) return false;
  if (line.rfind("FRAME", 0) != 0) throw std::runtime_error("the input is not y4m where a frame should begin");
  if (std::fread(planes.data(), 1, planes.size(), file) != planes.size())
    throw std::runtime_error("the input ends inside a frame");
  return true;
}

inline void write_frame(std::FILE* file, const std::vector<unsigned char>& planes) {
  if (std::fputs("FRAME\n", file) < 0 || std::fwrite(planes.data(), 1, planes.size(), file) != planes.size())
    throw std::runtime_error("the output cannot be written");
}

}  // namespace y4m
