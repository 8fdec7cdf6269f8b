// Speaks with the graphs beside this file: ONNX Runtime's C++ interface (1.12 or newer) and the
// standard library.
//   c++ -std=c++17 -O2 example.cc -I INCLUDE -L LIB -lonnxruntime -o speak && ./speak . hello.txt
//   hello.wav
// hello.txt is a request (uniaudio export request FOLDER "Any text." -o FILE): the tokens of a
// sentence.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

using Ids = std::vector<int64_t>;
const Ort::MemoryInfo kMemory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);

template <class T>
Ort::Value tensor(std::vector<T>& data, std::vector<int64_t> shape) {
  return Ort::Value::CreateTensor<T>(kMemory, data.data(), data.size(), shape.data(), shape.size());
}
// Runs a graph: names and values of its inputs, the name of the output that is wanted.
std::vector<Ort::Value> run(Ort::Session& s, const std::vector<const char*>& names,
                            const std::vector<Ort::Value>& values, const char* output) {
  return s.Run({}, names.data(), values.data(), names.size(), &output, 1);
}

// Keys and values lie here; a step reads and writes them in place.
struct Caches {
  std::vector<std::string> names;
  std::vector<std::vector<float>> data;
  std::vector<std::vector<int64_t>> shapes;
  Caches(Ort::Session& step, int64_t capacity) {
    for (size_t i = 0; i < step.GetInputCount(); ++i) {
      const std::string name =
          step.GetInputNameAllocated(i, Ort::AllocatorWithDefaultOptions()).get();
      if (name.rfind("keys_", 0) && name.rfind("values_", 0)) continue;
      std::vector<int64_t> shape = step.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
      shape[0] = capacity;
      names.push_back(name), shapes.push_back(shape),
          data.emplace_back(size_t(shape[0] * shape[1] * shape[2]), 0.0f);
    }
  }
};
// n steps from `position` on: what the model knows before the frame that follows the last one, [D].
std::vector<float> hear(Ort::Session& s, Caches& c, Ids previous, Ids aligned, int64_t position,
                        int64_t k, int64_t slots) {
  const int64_t n = int64_t(previous.size()) / k;
  Ids at = {position};
  Ort::IoBinding binding(s);
  const Ort::Value p = tensor(previous, {n, k}), g = tensor(aligned, {n, slots}),
                   t = tensor(at, {1});
  binding.BindInput("previous", p), binding.BindInput("guide", g), binding.BindInput("position", t);
  binding.BindOutput("hidden", kMemory);
  std::vector<Ort::Value> kept;
  for (size_t i = 0; i < c.names.size(); ++i) {
    kept.push_back(tensor(c.data[i], c.shapes[i]));
    binding.BindInput(c.names[i].c_str(), kept.back()),
        binding.BindOutput((c.names[i] + "_out").c_str(), kept.back());
  }
  s.Run({}, binding);
  std::vector<Ort::Value> out = binding.GetOutputValues();
  const int64_t d = out[0].GetTensorTypeAndShapeInfo().GetShape()[1];
  const float* h = out[0].GetTensorData<float>() + (n - 1) * d;
  return {h, h + d};
}

int main(int argc, char** argv) try {
  if (argc != 4) return std::cerr << "usage: speak FOLDER REQUEST OUT.wav\n", 2;
  const std::string folder = argv[1];
  std::ifstream in(argv[2]);
  std::string word;
  int64_t k, slots, vocab, codebooks, start, rate, top_k, seed, n, m;
  double temperature, top_p;
  if (!(in >> word) || word != "uniaudio-request-1")
    return std::cerr << argv[2] << ": expected uniaudio-request-1\n", 2;
  in >> word >> k >> slots >> vocab >> codebooks >> start >> rate >> word >> temperature >> top_k >>
      top_p >> seed >> word;
  Ids first(static_cast<size_t>(k)), size(first), frames, aligned;
  std::vector<uint8_t> mask(size_t(k * vocab), 0);
  for (int64_t i = 0; i < k; ++i) {
    in >> first[size_t(i)] >> size[size_t(i)];
    std::fill_n(mask.begin() + i * vocab + first[size_t(i)], size[size_t(i)], uint8_t(1));
  }
  in >> word >> n;
  for (int64_t i = 0, id; i < n * (k + slots) && in >> id; ++i)
    (i % (k + slots) < k ? frames : aligned).push_back(id);
  in >> word >> m;
  Ids target(static_cast<size_t>(m * slots));
  for (int64_t& id : target) in >> id;
  if (!in) return std::cerr << argv[2] << ": it ends early\n", 2;

  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  const auto graph = [&](const char* name) {
    return Ort::Session(env, (folder + "/" + name + ".onnx").c_str(), Ort::SessionOptions());
  };
  Ort::Session prefill = graph("global_prefill"), step = graph("global_step"),
               local = graph("local_frame"), decoder = graph("codec_decoder");
  Caches caches(step, n + m);
  Ids previous(size_t(k), start);  // each step hears the frame before it
  previous.insert(previous.end(), frames.begin(), frames.end() - k);
  hear(prefill, caches, previous, aligned, 0, k, slots);
  Ids last(frames.end() - k, frames.end()), codes(size_t(codebooks * m), -1), top = {top_k};
  std::vector<float> heat = {float(temperature)};
  std::vector<double> share = {top_p}, noise(static_cast<size_t>(k));
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  for (int64_t t = 0; t < m; ++t) {
    const Ids row(target.begin() + t * slots, target.begin() + (t + 1) * slots);
    std::vector<float> hidden = hear(step, caches, last, row, n + t, k, slots);
    for (double& u : noise) u = double(random() >> 11) / 9007199254740992.0;
    std::vector<Ort::Value> inputs;
    inputs.push_back(tensor(hidden, {1, int64_t(hidden.size())})),
        inputs.push_back(tensor(noise, {k})), inputs.push_back(tensor(heat, {1}));
    inputs.push_back(tensor(top, {1})), inputs.push_back(tensor(share, {1}));
    inputs.push_back(Ort::Value::CreateTensor<bool>(kMemory, reinterpret_cast<bool*>(mask.data()),
                                                    mask.size(),
                                                    std::vector<int64_t>{k, vocab}.data(), 2));
    const std::vector<Ort::Value> ids = run(
        local, {"hidden", "uniform", "temperature", "top_k", "top_p", "allowed"}, inputs, "codes");
    std::copy_n(ids[0].GetTensorData<int64_t>(), k, last.begin());
    for (int64_t i = 0; i < k; ++i) codes[size_t(i * m + t)] = last[size_t(i)] - first[size_t(i)];
  }
  std::vector<Ort::Value> all;
  all.push_back(tensor(codes, {codebooks, m}));
  const std::vector<Ort::Value> sound = run(decoder, {"codes"}, all, "samples");
  const int64_t count = sound[0].GetTensorTypeAndShapeInfo().GetShape()[0];
  std::ofstream wav(argv[3], std::ios::binary);
  // little-endian machines
  const auto put = [&](uint32_t v, int bytes) {
    wav.write(reinterpret_cast<const char*>(&v), bytes);
  };
  wav << "RIFF", put(uint32_t(36 + 2 * count), 4), wav << "WAVEfmt ", put(16, 4), put(1, 2),
      put(1, 2), put(uint32_t(rate), 4), put(uint32_t(2 * rate), 4), put(2, 2), put(16, 2),
      wav << "data";
  put(uint32_t(2 * count), 4);
  for (int64_t i = 0; i < count; ++i)
    put(uint32_t(int32_t(
            std::lround(32767 * std::clamp(sound[0].GetTensorData<float>()[i], -1.0f, 1.0f)))),
        2);
  if (!wav.flush()) return std::cerr << argv[3] << ": could not be written\n", 1;
  std::printf("%s: %.2f s\n", argv[3], double(count) / double(rate));
} catch (const Ort::Exception& e) {
  std::cerr << e.what() << "\n";
  return 1;
}
