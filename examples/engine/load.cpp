// Loads an engine and prints its inputs and outputs.  Needs TensorRT's headers and library:
//   g++ -std=c++17 load.cpp -I$TENSORRT/include -I$CUDA/include -L$TENSORRT/lib -lnvinfer -o load
//   ./load model.engine [libalibi_plugin.so]
#include <NvInferRuntime.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

struct Logger final : nvinfer1::ILogger {
    void log(Severity severity, char const* message) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
    }
};

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    Logger logger;
    std::ifstream stream(argv[1], std::ios::binary);
    std::string const plan{std::istreambuf_iterator<char>(stream), {}};
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    if (argc > 2) {
        runtime->getPluginRegistry().loadLibrary(argv[2]);
    } else {
        runtime->setEngineHostCodeAllowed(true);  // only for engines that you built yourself
    }
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) return 1;
    for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) std::printf("%s\n", engine->getIOTensorName(i));
    return 0;
}
