// Runs the fuzz target on random mutations of the files named:   mutate ROUNDS SEED FILE...
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void mutate(Bytes& bytes) {
    static const char* const WORDS[] = {"-1", "null", "[]", "{}", "1e400", "9223372036854775808", "\"f\"", "\\u0000", "/0",
                                        "true", "..", "\"H/0\"", "0.5", "\xff", "[[[[", "18446744073709551616"};
    const std::size_t at = below(bytes.size()), length = below(bytes.size() - at) % 64;
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(6)) {
      case 0: bytes[at] ^= static_cast<std::uint8_t>(1U << below(8)); break;
      case 1: bytes[at] = static_cast<std::uint8_t>(random_()); break;
      case 2: bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(length)); break;
      case 3: {
        const Bytes copy(begin, begin + static_cast<std::ptrdiff_t>(length));
        const std::size_t target = below(bytes.size());
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(target), copy.begin(), copy.end());
        break;
      }
      case 4: {
        const std::string word = WORDS[below(std::size(WORDS))];
        bytes.insert(begin, word.begin(), word.end());
        break;
      }
      default: replace_value(bytes, WORDS[below(std::size(WORDS))], at);
    }
  }

 private:
  // Replaces what stands between two JSON marks.
  void replace_value(Bytes& bytes, const std::string& word, std::size_t at) {
    const auto mark = [](std::uint8_t c) { return c == ':' || c == ',' || c == '[' || c == ']' || c == '}'; };
    while (at < bytes.size() && !mark(bytes[at])) ++at;
    if (at == bytes.size()) return;
    std::size_t end = ++at;
    while (end < bytes.size() && !mark(bytes[end])) ++end;
    bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.begin() + static_cast<std::ptrdiff_t>(end));
    bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), word.begin(), word.end());
  }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s ROUNDS SEED FILE...\n", argv[0]);
    return 2;
  }
  std::vector<Bytes> corpus;
  for (int i = 3; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (corpus.back().empty()) {
      std::fprintf(stderr, "%s is empty or missing\n", argv[i]);
      return 2;
    }
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  Mutator mutator(std::strtoull(argv[2], nullptr, 10));
  const long rounds = std::atol(argv[1]);
  for (long round = 0; round < rounds; ++round) {
    Bytes bytes = corpus[mutator.below(corpus.size())];
    for (std::size_t n = 1 + mutator.below(4); n > 0 && !bytes.empty(); --n) mutator.mutate(bytes);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%ld rounds\n", rounds);
}
