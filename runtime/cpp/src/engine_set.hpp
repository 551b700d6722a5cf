// engines.json of an engine set, as engines/store.py writes it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace flashvsr {

struct EngineSet {
  struct Plan {
    std::string file;
    std::uint64_t bytes = 0;
  };

  std::string folder;
  std::string source;  // the bundle's folder when the set was built
  std::string bundle;  // digest of its manifest
  std::string flavour, version;  // the TensorRT that the plans are for: tensorrt_rtx or tensorrt
  std::string tier, decoder, refused;
  std::vector<std::string> targets;  // e.g. sm89, or sm90-nvidia-h200
  std::int64_t weight_streaming_mib = 0;
  std::map<std::string, Plan> plans;  // by graph

  // Whether the plans run on a GPU of that compute capability, e.g. 89, and name.
  bool serves(int capability, const std::string& name) const;
};

inline constexpr const char* ENGINES_FILE = "engines.json";

bool is_engine_set(const std::string& folder);

// Throws FLASHVSR_ERROR_BUNDLE for anything but an engine set of this schema.
EngineSet parse_engine_set(const std::string& text);

// Reads <folder>/engines.json and compares the sizes of the plans; refuses a set that `engines verify` has refused.
EngineSet load_engine_set(const std::string& folder);

}  // namespace flashvsr
