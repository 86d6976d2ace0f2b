"""Variables of the prefix EL_ that are no settings of a run: how and where runs are executed, and who hears of them."""

from collections.abc import Mapping

from el_resources.addresses import is_web_address

EXECUTIONS = ("local", "ray")


def refuse_bad_values(variables: Mapping[str, str]) -> None:
    """Raise ValueError for a value that Dagster or a sensor would trip over later; names variable, value and remedy."""
    execution = variables.get("EL_EXECUTION", "local")
    if execution not in EXECUTIONS:
        raise ValueError(f"EL_EXECUTION={execution!r} is unknown; choose one of {[*EXECUTIONS]}")
    at_once = variables.get("EL_RUNS_AT_ONCE")
    if at_once is not None and not (at_once.strip().isdecimal() and int(at_once) >= 1):
        raise ValueError(f"EL_RUNS_AT_ONCE={at_once!r} is no number of runs; set it to 1 or more")
    webhook = variables.get("EL_FAILURE_WEBHOOK", "")
    if webhook and not is_web_address(webhook):
        # Not shown: it may hold a token.
        raise ValueError("EL_FAILURE_WEBHOOK is no address of http or https; write https://HOST/PATH, or unset it")
