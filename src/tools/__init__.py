"""Programs beside training, evaluation and export: python -m src.tools.NAME"""

from ..platform.stopping import end_quietly_while_starting

end_quietly_while_starting()
