"""Ordered keys and transactions: the words (`base`) and the engines. What the keys mean is no subject here."""
