"""What the model of the cost says of the stack is what the template deploys."""

import inspect
import re

from answerback.client.timing import Timing
from answerback.core.request import Policy
from answerback.protocol.limits import PIECE_BYTES
from answerback_aws.cost.bill import ALARMS, LOG_MONTHS, deployed
from answerback_aws.cost.workload import (
    AWAKE_AFTER_FLUSH_S,
    FILE_DAYS,
    PIECE_KB,
    POLLS_A_MINUTE,
    SECONDS_A_PING,
    SECONDS_A_WATCH,
    UnitCounts,
)
from answerback_aws.runtime import s3_files
from answerback_aws.runtime import telemetry as observing
from answerback_aws.runtime.aurora import write_behind
from answerback_aws.runtime.composition import POLL_EVERY_S
from template import RESOURCES, TEMPLATE, of_type, plain

PARAMETERS = TEMPLATE["Parameters"]
COUNTS = UnitCounts.load()


def test_every_metric_that_an_alarm_watches_is_billed() -> None:
    watched = 0
    for alarm in of_type("AWS::CloudWatch::Alarm").values():
        metrics = alarm["Properties"].get("Metrics")
        watched += 1 if metrics is None else sum("MetricStat" in metric for metric in metrics)
    assert watched == ALARMS


def test_the_functions_are_as_large_as_the_template_makes_them() -> None:
    design = deployed()
    assert PARAMETERS["FrontMemoryMegabytes"]["Default"] == design.memory_mb
    assert PARAMETERS["WorkerMemoryMegabytes"]["Default"] == design.memory_mb
    assert PARAMETERS["Architecture"]["Default"] == design.architecture


def test_the_database_rests_as_the_template_lets_it() -> None:
    design = deployed()
    assert PARAMETERS["MinCapacity"]["Default"] == design.aurora_min_acu
    assert PARAMETERS["HistoryDelaySeconds"]["Default"] == design.write_behind_every_s
    assert PARAMETERS["SecondsUntilPause"]["Default"] <= AWAKE_AFTER_FLUSH_S
    assert COUNTS.write_behind["waiting_turns"] == write_behind.MAX_WAITING


def test_files_are_billed_for_as_long_as_they_stay() -> None:
    assert s3_files.FILE_DAYS == FILE_DAYS
    assert PIECE_BYTES == PIECE_KB * 1024


def test_polls_and_renewals_come_as_often_as_the_worker_makes_them() -> None:
    assert COUNTS.poll["every_s"] == POLL_EVERY_S
    assert round(COUNTS.renewal["every_s"], 1) == round(Policy().renew_every_s, 1)


def test_pings_and_watches_come_as_often_as_the_app_makes_them() -> None:
    assert (Timing().ping_idle_s, Timing().renew_watch_s) == (SECONDS_A_PING, SECONDS_A_WATCH)


def test_two_mappings_poll_the_queues() -> None:
    assert len(of_type("AWS::Lambda::EventSourceMapping")) * 5 * 3 == POLLS_A_MINUTE


def test_logs_are_kept_as_long_as_they_are_billed() -> None:
    assert PARAMETERS["LogRetentionDays"]["Default"] / 30 == LOG_MONTHS


def test_alarms_and_dashboard_name_metrics_that_are_written() -> None:
    """In the namespace that the functions are told, with the one dimension that those metrics have."""
    written = set(re.findall(r'self\.(?:count|sample)\("(\w+)"', inspect.getsource(observing)))
    written |= set(re.findall(r'\("(\w+Ms)", ending', inspect.getsource(observing)))
    namespaces = {
        plain(function["Properties"]["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"])
        for function in of_type("AWS::Lambda::Function").values()
    }
    (namespace,) = namespaces
    text = plain(RESOURCES["Dashboard"]["Properties"]["DashboardBody"])
    watched = re.findall(r'\["Answerback/\$\{AWS::StackName\}", "(\w+)", "service", "(\w+)"', text)
    failures = RESOURCES["ArchiveFailuresAlarm"]["Properties"]
    lag = RESOURCES["ArchiveLagAlarm"]["Properties"]["Metrics"][1]["MetricStat"]["Metric"]
    for metric in (failures, lag):
        assert plain(metric["Namespace"]) == namespace
        assert metric["Dimensions"] == [{"Name": "service", "Value": "janitor"}]
        watched.append((metric["MetricName"], "janitor"))
    services = {
        function["Properties"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
        for function in of_type("AWS::Lambda::Function").values()
    }
    assert {"TurnsNotArchived", "ArchiveLagMs", "TurnsWaiting", "FirstTextMs"} <= {name for name, _ in watched}
    assert {name for name, _ in watched} <= written
    assert {service for _, service in watched} <= services
