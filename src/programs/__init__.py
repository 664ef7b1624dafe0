"""The programs: command line in, tables and files out. train.py, eval.py, export.py and infer.py at the top level run
them, as do the commands `rpg-train`, `rpg-eval`, `rpg-export` and `rpg-infer` of the installed package.

May import every room.
"""

from ..platform.stopping import end_quietly_while_starting

end_quietly_while_starting()
