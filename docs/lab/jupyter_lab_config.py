"""Settings of a JupyterLab of the course's environment: no news, no extensions, and notebooks that open unchanged."""

from pathlib import Path

from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

SPEC = KernelSpecManager().get_kernel_spec("python3")
# What JupyterLab writes into a notebook as soon as its kernel runs, which then has changes that nobody made.
OF_THE_KERNEL = {
    "kernelspec": {"name": "python3", "display_name": SPEC.display_name, "language": SPEC.language},
    "language_info": IPythonKernel.language_info,
}


class Notebooks(AsyncLargeFileManager):
    """The files of the folder; a notebook of the course comes with the metadata of the kernel that will run it."""

    async def get(self, *arguments, **options):
        model = await super().get(*arguments, **options)
        if model["type"] == "notebook" and model["content"]:
            metadata = model["content"]["metadata"]
            if metadata.get("kernelspec", {}).get("name") == "python3":
                metadata.update(OF_THE_KERNEL)
        return model


c = get_config()  # noqa: F821 (JupyterLab reads this file, and brings the function)
c.ServerApp.contents_manager_class = Notebooks
c.LabApp.app_settings_dir = str(Path(__file__).parent)  # with overrides.json
c.LabApp.extension_manager = "readonly"
