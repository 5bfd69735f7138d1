"""Signed uploads and the deletion of what was uploaded: the words (`base`) and the engines. No records and no store."""
