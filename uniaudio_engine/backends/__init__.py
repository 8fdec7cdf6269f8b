"""What runs a model: the compiled core, the CUDA library, ONNX Runtime, TensorRT."""
