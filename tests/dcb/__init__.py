"""The examples of dcb.events: each module is a decision model as a user writes it, and its specification."""

import pytest

pytest.register_assert_rewrite("tests.dcb.scenario")
