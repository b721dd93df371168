import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests against the real engine take minutes and gigabytes: they run when -m names them, and else are not even looked at."""
    if "real" in config.option.markexpr:
        return
    concerned = [item for item in items if item.get_closest_marker("real")]
    if concerned:
        config.hook.pytest_deselected(items=concerned)
        items[:] = [item for item in items if item not in concerned]
