"""The tiny FluxFillPipeline that stands in for FLUX.1 Fill on a CPU."""
