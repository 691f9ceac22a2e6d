"""The demo: a month of real flights as events, see `run.run_demo`."""
