"""/load: what a reader derives from two answers."""

from weir.api.load import LoadReport, ModelLoad


def test_work_is_local_and_queued_and_what_left() -> None:
    load = ModelLoad(local_slot_seconds=10, queued_slot_seconds=2, spilled_work_seconds=5)
    assert load.work_seconds == 17


def test_an_answer_reads_back_as_it_was_written() -> None:
    report = LoadReport(
        gateway="uid",
        started_at=1.5,
        at=3.25,
        ready=True,
        models={"ml/qwen": ModelLoad(in_flight={"pod": 3}, requests={"frontier": {"Saturated": 2}})},
    )
    text = report.model_dump_json(by_alias=True)
    assert '"inFlight":{"pod":3}' in text
    assert LoadReport.model_validate_json(text) == report
