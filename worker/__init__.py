"""Everything that needs the GPU: the Celery worker, the fill of one job, the device, adapters, canvas and safety."""
