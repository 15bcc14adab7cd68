"""Klein 9B Folder and Save Folder in the real host, without a graph."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import standins
from host.edits import edit, klein_model
from klein9b.klein.photographs import UnusableFolder

GIB = 2**30


@pytest.fixture
def folders(comfy_host, tmp_path):
    """The host's input and output folder, with a folder `trip` of three photographs."""
    import folder_paths

    before = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    places = SimpleNamespace(input=tmp_path / "input", output=tmp_path / "output", trip=tmp_path / "input" / "trip")
    standins.write_photographs(
        places.trip, {"a.png": "astronaut", "b.jpg": "coffee", "c.png": "astronaut"}, longest_side=160
    )
    folder_paths.set_input_directory(str(places.input))
    folder_paths.set_output_directory(str(places.output))
    yield places
    folder_paths.set_input_directory(before[0])
    folder_paths.set_output_directory(before[1])


@pytest.fixture
def told(folders, monkeypatch):
    """All texts under nodes."""
    from klein9b.nodes import folder, save_folder
    from klein9b.nodes.host import list_progress

    texts = []
    for module in (folder, save_folder, list_progress):
        monkeypatch.setattr(module, "show_text", lambda _, text: texts.append(text))
    return texts


def load(first=1, most=20, model=None, folder="trip"):
    from klein9b.nodes.folder import Klein9BFolder

    return Klein9BFolder.execute(folder, first, most, model).args


def save(images, names, folder="edited"):
    from klein9b.nodes.save_folder import Klein9BSaveFolder

    return Klein9BSaveFolder.execute(images, names, [folder]).ui["images"]


class TestFolder:
    def test_photographs_are_what_load_image_makes_of_them(self, told):
        import nodes

        images, names, model = load()
        assert names == ["a", "c", "b"] and model is None
        for image, file in zip(images, ("a.png", "c.png", "b.jpg"), strict=True):
            wanted, _ = nodes.LoadImage().load_image(f"trip/{file}")
            assert torch.equal(image, wanted)
        assert told == ["3 photographs in 2 sizes"]

    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_a_turned_camera_is_turned_back(self, folders, told, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = standins.photograph("coffee", longest_side=160)
        turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
        upright.transpose(turned[orientation]).save(folders.trip / "z.jpg", exif=exif, quality=95, subsampling=0)
        images, names, _ = load()
        pixels = images[names.index("z")][0].numpy()
        assert np.abs(pixels - np.asarray(upright, np.float32) / 255).mean() < 0.02

    def test_the_first_picture_of_several_in_a_file(self, folders, told):
        frames = [standins.photograph(name).resize((80, 80)) for name in ("coffee", "astronaut")]
        frames[0].save(folders.trip / "z.gif", save_all=True, append_images=frames[1:])
        images, names, _ = load()
        assert images[names.index("z")].shape[0] == 1

    def test_a_part_of_the_folder(self, told):
        assert load(first=2, most=1)[1] == ["c"]
        assert told == ["1 of 3 photographs in 1 size\nFor the rest set first to 3."]
        assert load(first=3)[1] == ["b"]
        with pytest.raises(UnusableFolder, match="There are 3 photographs, so none from number 4 on. Set first to 1."):
            load(first=4)

    def test_a_damaged_photograph_is_named_and_the_rest_goes_on(self, folders, told, caplog):
        whole = (folders.trip / "c.png").read_bytes()
        (folders.trip / "c.png").write_bytes(whole[: len(whole) // 2])
        assert load()[1] == ["a", "b"]
        assert "Skipped: c.png (" in told[0] and "Skipped: c.png (" in caplog.text
        with pytest.raises(UnusableFolder, match=r"No photograph from 2 to 2 could be read. Skipped: c.png \("):
            load(first=2, most=1)

    def test_one_that_the_host_cannot_read_is_named(self, told, monkeypatch):
        import nodes

        read = nodes.LoadImage.load_image

        def fail(self, image):
            if "b.jpg" in image:
                raise RuntimeError("no decoder")
            return read(self, image)

        monkeypatch.setattr(nodes.LoadImage, "load_image", fail)
        assert load()[1] == ["a", "c"] and "b.jpg (no decoder)" in told[0]

    def test_more_than_the_ram_holds_is_refused_before_it_is_read(self, told, monkeypatch):
        import psutil

        needed = 3 * 12 * (160 * 160 * 2 + 160 * 107)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
        with pytest.raises(UnusableFolder, match=r"These 3 photographs and .* Set most to 2, and edit the rest"):
            load()
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
        load()

    def test_cancelling_is_no_damage(self, told, monkeypatch):
        import comfy.model_management
        import comfy.utils

        def cancelled(*_):
            raise comfy.model_management.InterruptProcessingException

        monkeypatch.setattr(comfy.utils.ProgressBar, "update", cancelled)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            load()

    def test_its_fingerprint_is_that_of_the_files(self, folders):
        from klein9b.nodes.folder import Klein9BFolder

        before = Klein9BFolder.fingerprint_inputs(folder="trip", first=1, most=1)
        assert before == Klein9BFolder.fingerprint_inputs(folder="trip", first=1, most=1)
        (folders.trip / "b.jpg").unlink()
        assert before != Klein9BFolder.fingerprint_inputs(folder="trip", first=1, most=1)
        assert "There is no" not in str(before) and Klein9BFolder.fingerprint_inputs(folder="../x")


class TestProgress:
    def test_each_is_named_while_it_is_sampled_and_what_was_said_comes_back(self, told):
        from comfy_execution.utils import CurrentNodeContext

        _, _, model = load(model=klein_model())
        said = told.pop()
        for place in range(3):
            with CurrentNodeContext("prompt", "node", place):
                edit(model, steps=1)
        begun = [f"Editing {place} of 3: {name}\n{said}" for place, name in enumerate("acb", 1)]
        assert told == [*begun, said]

    def test_the_picture_is_the_same_and_so_is_the_model(self, told):
        model = klein_model()
        _, _, telling = load(model=model)
        told.clear()
        assert torch.equal(edit(telling, steps=1), edit(model, steps=1)) and not told

    def test_a_host_that_has_no_place_for_it(self, told, monkeypatch):
        import comfy.patcher_extension

        model = klein_model()
        monkeypatch.delattr(comfy.patcher_extension.WrappersMP, "OUTER_SAMPLE")
        assert load(model=model)[2] is model


class TestSaveFolder:
    def test_the_page_is_shown_what_was_saved(self, folders, told):
        shown = save([torch.rand(1, 64, 80, 3), torch.rand(1, 80, 64, 3)], ["a", "b"], "trip/done")
        assert shown == [{"filename": f"{name}.png", "subfolder": "trip/done", "type": "output"} for name in "ab"]
        assert sorted(path.name for path in (folders.output / "trip" / "done").iterdir()) == ["a.png", "b.png"]
        assert told == [f"2 pictures saved in {folders.output / 'trip' / 'done'}"]

    def test_names_that_were_taken_are_counted(self, told):
        save([torch.rand(1, 64, 80, 3)], ["a"])
        save([torch.rand(2, 64, 80, 3)], ["a"])
        assert told[-1].endswith("2 under another name, as theirs was taken")

    def test_a_name_for_each(self, told):
        with pytest.raises(UnusableFolder, match="Expected a name for each picture, got 2 and 1"):
            save([torch.rand(1, 64, 64, 3)] * 2, ["a"])

    def test_nothing_outside_the_output_folder(self, folders, told):
        with pytest.raises(UnusableFolder, match="does not lie in"):
            save([torch.rand(1, 64, 64, 3)], ["a"], "../input/trip")

    def test_levels_come_back_as_they_were(self, folders, told):
        """As the eight bits they were read from, which ComfyUI's own nodes cut down."""
        levels = torch.arange(256, dtype=torch.float32).view(1, 16, 16, 1).expand(1, 16, 16, 3) / 255
        save([levels], ["a"])
        assert np.array_equal(
            np.asarray(Image.open(folders.output / "edited" / "a.png"))[..., 0].ravel(), np.arange(256)
        )
