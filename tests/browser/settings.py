"""Settings that make the frontend repeatable.

No tour, no minimap, text at every zoom, workflow files checked, and every page load starts with the frontend's own
workflow instead of what was open before.
"""

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.10",
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Validation.Workflows": True,
    "Comfy.Workflow.Persist": False,
}
