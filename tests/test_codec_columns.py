"""Columns: what goes in comes out."""

from matyan import _codec


def test_points_come_back_as_they_went_in() -> None:
    """A step or an epoch that was not given stays None."""
    columns = _codec.Columns()
    columns.append(3, 1.5, 10.0, 7)
    columns.append(None, 2.5, 11.0)
    assert columns.rows() == [(3, 1.5, 10.0, 7), (None, 2.5, 11.0, None)]
    assert len(columns) == 2
