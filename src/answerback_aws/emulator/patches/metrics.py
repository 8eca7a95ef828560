"""CloudWatch: metrics that functions write into their logs are counted, and an alarm watches its own metric only.

An alarm on a sum of metrics is accepted, and watches nothing.
"""

import json
from types import FunctionType
from typing import Any, Final

from answerback_aws.emulator.patches import private, replace

_PROVISIONERS: Final = "services.cloudformation.provisioners"
_CLOUDWATCH: Final = "services.cloudwatch"


def patch() -> None:
    """Apply. Raises: Moved."""

    def append(stream: Any, events: Any) -> None:
        append_was(stream, events)
        written = [json.loads(event["message"]) for event in events if '"CloudWatchMetrics"' in event["message"]]
        for line in written:
            _record(line)
        if written:
            private(_CLOUDWATCH, "_evaluate_all_alarms")()

    def evaluate(alarm: Any) -> None:
        """The emulator would take every metric of that name, whatever its dimensions."""
        key = private(_CLOUDWATCH, "_dims_key")(private(_CLOUDWATCH, "_dims_from_list")(alarm.get("Dimensions") or ()))
        own = {name: points for name, points in private(_CLOUDWATCH, "_metrics").items() if name[2] == key}
        FunctionType(evaluate_was.__code__, {**evaluate_was.__globals__, "_metrics": own})(alarm)

    def create(logical_id: str, properties: Any, stack_name: str) -> Any:
        if "Metrics" in properties:
            return f"{stack_name}-{logical_id}", {}
        return create_was(logical_id, properties, stack_name)

    def update(physical_id: str, before: Any, after: Any, *more: Any, **named: Any) -> Any:
        if "Metrics" in after:
            return physical_id, {}
        return update_was(physical_id, before, after, *more, **named)

    for name in ("record_metric", "_evaluate_all_alarms", "_dims_key", "_dims_from_list", "_metrics"):
        private(_CLOUDWATCH, name)
    append_was = replace("services.cloudwatch_logs", "_append_log_events", append)
    evaluate_was = replace(_CLOUDWATCH, "_evaluate_alarm", evaluate)
    handlers = private(_PROVISIONERS, "_RESOURCE_HANDLERS")["AWS::CloudWatch::Alarm"]
    create_was, update_was = handlers["create"], handlers["update"]
    handlers.update(create=create, update=update)


def _record(line: Any) -> None:
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = {name: line[name] for name in names}
            for metric in directive["Metrics"]:
                values = line[metric["Name"]]
                for value in values if isinstance(values, list) else [values]:
                    private(_CLOUDWATCH, "record_metric")(
                        directive["Namespace"], metric["Name"], value, metric.get("Unit", "None"), dimensions
                    )
