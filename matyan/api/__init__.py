"""The read API: what the web app and the SDK's readers ask of a store, over HTTP.

It reads snapshots of a store by way of the rules, in threads, and answers as it reads. It never imports the frontier: in the tracker
of one machine both answer at one port.

| file | subject |
|---|---|
| asked | the parameters of a request, and what is wrong with them |
| query/ | the query language |
| runs | one run as the API shows it; lists of runs |
| plan | which runs a search looks at, by the indexes |
| search | which runs, metrics and objects match a query |
| points, objects | the points of metrics and the objects of other sequences, sampled |
| changes | what the API writes |
| reading | what `matyan.reader` asks: rows and points, whole and exact |
| answers | an answer that is read in a thread while it is sent |
| gone | an answer ends with its client |
| app, routes | the Quart-trio app |
| ui, web_app | the web app's files |
"""
