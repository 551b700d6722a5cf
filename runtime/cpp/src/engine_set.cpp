#include "engine_set.hpp"

#include <algorithm>
#include <cctype>

#include "json.hpp"

namespace flashvsr {

namespace {

using namespace json;

constexpr std::int64_t SCHEMA = 1;
constexpr const char* REDO = "; what to do: build the engines again with flashvsr-trt engines build";

EngineSet parse(const Json& data) {
  object(data, "it");
  const std::int64_t schema = integer(member(data, "schema"), "schema");
  if (schema != SCHEMA)
    bad_bundle("schema version " + std::to_string(schema) + "; expected: " + std::to_string(SCHEMA));
  EngineSet set;
  set.source = string(member(data, "source"), "source");
  if (const auto refused = data.find("refused"); refused != data.end()) set.refused = string(*refused, "refused");
  const Json& key = object(member(data, "key"), "key");
  set.bundle = string(member(key, "bundle"), "key.bundle");
  set.flavour = string(member(key, "flavour"), "key.flavour");
  set.version = string(member(key, "version"), "key.version");
  set.tier = string(member(key, "tier"), "key.tier");
  set.decoder = string(member(key, "decoder"), "key.decoder");
  for (const Json& target : array(member(key, "targets"), "key.targets")) set.targets.push_back(string(target, "a target"));
  const Json& flags = object(member(key, "flags"), "key.flags");
  set.weight_streaming_mib = integer(member(flags, "weight_streaming_mib"), "weight_streaming_mib");
  for (const auto& item : object(member(data, "engines"), "engines").items()) {
    const Json& engine = object(item.value(), "an engine");
    const std::string file = string(member(engine, "file"), "an engine's file");
    check_inside(file);
    set.plans[item.key()] = {file, bytes(member(engine, "bytes"), file)};
  }
  return set;
}

// As engines/targets.py makes it: sm90-nvidia-h200.
std::string exact_name(int capability, const std::string& name) {
  std::string words;
  for (const char c : name) {
    const char low = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const bool kept = (low >= 'a' && low <= 'z') || (low >= '0' && low <= '9');
    if (kept)
      words += low;
    else if (!words.empty() && words.back() != '-')
      words += '-';
  }
  if (!words.empty() && words.back() == '-') words.pop_back();
  return "sm" + std::to_string(capability) + "-" + words;
}

}  // namespace

bool EngineSet::serves(int capability, const std::string& name) const {
  const auto has = [this](const std::string& target) {
    return std::find(targets.begin(), targets.end(), target) != targets.end();
  };
  return has("sm" + std::to_string(capability)) || has(exact_name(capability, name));
}

bool is_engine_set(const std::string& folder) {
  std::error_code failed;
  return std::filesystem::is_regular_file(std::filesystem::path(folder) / ENGINES_FILE, failed);
}

EngineSet parse_engine_set(const std::string& text) { return parsed(text, ENGINES_FILE, REDO, parse); }

EngineSet load_engine_set(const std::string& folder) {
  EngineSet set = parse_engine_set(read_file(folder, ENGINES_FILE, REDO));
  set.folder = folder;
  if (!set.refused.empty()) bad_bundle(folder + ": engines verify has refused it: " + set.refused + REDO);
  for (const auto& [graph, plan] : set.plans) check_size(folder, plan.file, plan.bytes, REDO);
  return set;
}

}  // namespace flashvsr
