"""`keytrail report`: what compliance asks of the log, as tables with the query that made each, in HTML and JSON.

`questions` says what a table is; a module for each report lists its tables; `scope` and `interval` say what a report is about;
`build` asks; `page` and `charts` draw; `command` is the command line.
"""
