"""What stands in deploy/ and compose.yaml: judged by the programs that will read it, and against matyan itself."""
