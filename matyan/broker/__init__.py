"""Partitions of ordered records: the words (`base`) and the engines. What a record means is no subject here."""
