"""What came out, as tables, pictures and a page. Works on plain data and files, so that a finished run can be reported
anew.

May import `config`, `pruning`, `platform`.
"""
