"""``samv2 doctor``: what is installed, which devices work, which models are ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from SAMv2Core.cli import common
from SAMv2Core.diagnosis import doctor

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

MARKS = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}


def add_subparser(subparsers: Any) -> None:
    """Add ``doctor`` to the parser."""
    parser = subparsers.add_parser("doctor", help="what is installed, what works, what is missing", description=__doc__)
    parser.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Print the findings; exit code 1 when SAMv2 cannot run here, 4 when only a model is missing."""
    session.declare()
    with session.stage("examine", 0.0, 1.0):
        diagnosis = doctor.examine()
    findings = [vars(finding) for finding in diagnosis.findings]
    content = {"usable": diagnosis.is_usable, **diagnosis.facts, "findings": findings}
    session.results.update(content)
    if session.args.json:
        session.write_json(content)
    else:
        for finding in diagnosis.findings:
            session.say(f"{MARKS[finding.status]}  {finding.topic}: {finding.text}")
            if finding.remedy:
                session.say(f"         -> {finding.remedy}")
        session.say("SAMv2 can run here." if diagnosis.is_usable else "SAMv2 cannot run here yet.")
    session.exit_code = diagnosis.exit_code
