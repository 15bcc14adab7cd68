"""Settings that make the frontend repeatable: no tour, no minimap, text at every zoom, workflow files checked."""

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.10",
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Validation.Workflows": True,
}
