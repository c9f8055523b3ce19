"""The demo model: a tiny FluxFillPipeline that runs on any CPU. `python -m infra.demo_model` makes it."""
