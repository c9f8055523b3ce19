"""`fillfleet worker --gpus`: a worker on each GPU of this host, watched by a process that loads none of their code."""
