"""Check that a pipeline can run at all, before hours are spent."""

import importlib.util

from tools.common.problems import with_fix
from tools.evaluation import EvaluationError
from tools.evaluation.running import Plan


def require_pipeline(plan: Plan, *, runner: str, state: str | None, images: str) -> None:
    """Check that Apache Beam is installed, and that `runner`'s workers can reach the state, the images and the modules.

    Raises:
      EvaluationError: Beam is missing, or something is a local file that workers elsewhere do not see.
    """
    if importlib.util.find_spec("apache_beam") is None:
        fix = "run `python -m pip install 'apache-beam>=2.60'` (the extra `beam`)"
        raise EvaluationError(with_fix("--runner needs Apache Beam", fix))
    if runner == "DataflowRunner":
        places = {"--state": state or "", "--images": images}
        places |= {f"the module {each.title}": each.archive for each in plan.modules}
        if local := [name for name, place in places.items() if "://" not in place]:
            fix = f"give {', '.join(local)} as a URL"
            raise EvaluationError(with_fix("workers of Dataflow do not see this machine's files", fix))
