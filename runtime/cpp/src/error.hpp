// The one exception of this library: a status for the border and a text for people.
#pragma once

#include <stdexcept>
#include <string>

#include "flashvsr.h"

namespace flashvsr {

class Error : public std::runtime_error {
 public:
  Error(flashvsr_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  flashvsr_status status() const { return status_; }

 private:
  flashvsr_status status_;
};

[[noreturn]] inline void fail(flashvsr_status status, const std::string& text) { throw Error(status, text); }
[[noreturn]] inline void bad_argument(const std::string& text) { fail(FLASHVSR_ERROR_ARGUMENT, text); }
[[noreturn]] inline void bad_bundle(const std::string& text) { fail(FLASHVSR_ERROR_BUNDLE, text); }

}  // namespace flashvsr
