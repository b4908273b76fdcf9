"""Published numbers of GPT-2 small, each with its source, its tolerance and a way to measure it.

`measure_all(Subject(model), FACTS)` says which of them this model reproduces. The numbers are facts
of the 124M checkpoint; another model has others.
"""

from interp.published.facts import Fact as Fact
from interp.published.facts import Finding as Finding
from interp.published.facts import Measured as Measured
from interp.published.facts import Subject as Subject
from interp.published.facts import Tolerance as Tolerance
from interp.published.facts import measure_all as measure_all
from interp.published.facts import within as within
from interp.published.table import FACTS as FACTS
from interp.published.table import NOT_REPRODUCED as NOT_REPRODUCED
