"""What all tests share: how hypothesis runs."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "kudurru",
    deadline=None,  # an fsync takes as long as it takes
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("kudurru")
