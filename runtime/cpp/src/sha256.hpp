// SHA-256 (FIPS 180-4) of a text, as Python's hashlib gives it in hexadecimal: what names a bundle.
#pragma once

#include <string>

namespace flashvsr {

std::string sha256(const std::string& text);

}  // namespace flashvsr
