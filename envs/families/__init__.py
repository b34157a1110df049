"""What `envs.tasks`, `envs.task_presets` and `envs.evaluate` are made of."""
