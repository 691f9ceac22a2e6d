"""No test fails because the machine is slow: Hypothesis has no deadline either."""

from hypothesis import settings

settings.register_profile(
    "no deadline", settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("no deadline")
