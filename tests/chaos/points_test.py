"""The table of fault points and the points in the code are the same."""

import collections
import pathlib
import re
import unittest

import points

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALL = re.compile(r"fault::(?:Hit|Pass)\(([^;{]*)")


def points_in_code():
    """Name -> number of places."""
    found = collections.Counter()
    for folder in ("common", "coordinator", "worker"):
        for path in (ROOT / folder).rglob("*.cc"):
            for arguments in CALL.findall(path.read_text(encoding="utf8")):
                found.update(re.findall(r'"([a-z_.]+)"', arguments))
    return found


class PointsTest(unittest.TestCase):
    def test_the_table_lists_every_point_of_the_code_once(self):
        names = [point.name for point in points.POINTS]
        self.assertEqual(sorted(names), sorted(points_in_code()))

    def test_a_name_means_one_place(self):
        self.assertEqual([name for name, count in points_in_code().items() if count > 1], [])

    def test_there_are_points_in_every_program(self):
        self.assertGreaterEqual(len(points.POINTS), 60)
        self.assertEqual({point.program for point in points.POINTS}, {"coordinator", "worker", "any"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
