// Runs a rewritten model on alibi-rewriter's kernels in C++.
//
//   g++ -std=c++17 run.cpp -I<onnxruntime>/include -L<onnxruntime>/lib -lonnxruntime -o run
//   ./run model.alibi.onnx "$(python -c 'import alibi_rewriter; print(alibi_rewriter.get_library_path())')"
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <vector>

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "run");
    Ort::SessionOptions options;
    options.RegisterCustomOpsLibrary(argv[2]);  // must be there before the session is made
    Ort::Session session(env, argv[1], options);

    std::vector<int64_t> ids = {5, 6, 7, 8};
    std::vector<int64_t> mask = {1, 1, 1, 1};
    int64_t const shape[] = {1, 4};
    auto const memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> inputs;
    for (auto* values : {&ids, &mask}) {
        inputs.push_back(Ort::Value::CreateTensor<int64_t>(memory, values->data(), values->size(), shape, 2));
    }
    char const* const names[] = {"input_ids", "attention_mask"};
    char const* const wanted[] = {"logits"};
    auto const outputs = session.Run(Ort::RunOptions{}, names, inputs.data(), inputs.size(), wanted, 1);
    float const* const logits = outputs[0].GetTensorData<float>();
    std::printf("%.6f %.6f %.6f\n", logits[0], logits[1], logits[2]);
    return 0;
}
