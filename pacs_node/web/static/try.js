// Try it: dropped files, the progress of the upload, and the pictures of the answer.

const form = document.querySelector("#try");
const files = form.elements.files;
const bar = form.querySelector("progress");
const status = form.querySelector("[data-status]");

for (const name of ["dragover", "drop"]) form.addEventListener(name, (event) => event.preventDefault());
form.addEventListener("dragover", () => form.classList.add("over"));
form.addEventListener("dragleave", () => form.classList.remove("over"));
form.addEventListener("drop", (event) => {
  form.classList.remove("over");
  if (event.dataTransfer.files.length) files.files = event.dataTransfer.files;
});

form.addEventListener("htmx:beforeRequest", (event) => {
  const megabytes = [...files.files].reduce((sum, one) => sum + one.size, 0) / 1e6;
  if (megabytes > Number(form.dataset.largest)) {
    event.preventDefault();
    status.textContent = `These files have ${Math.ceil(megabytes)} MB; together they may have ${form.dataset.largest}.`;
    return;
  }
  bar.hidden = false;
  document.querySelector("#tried").replaceChildren();
  status.textContent = "Sending …";
});
form.addEventListener("htmx:xhr:progress", (event) => {
  if (!event.detail.lengthComputable) return;
  bar.value = (100 * event.detail.loaded) / event.detail.total;
  if (bar.value < 100) return;
  bar.removeAttribute("value");
  status.textContent = "Analyzing: the model is loaded first, which takes some seconds …";
});
form.addEventListener("htmx:afterRequest", (event) => {
  bar.hidden = true;
  bar.value = 0;
  status.textContent = event.detail.successful ? "Done." : reason(event.detail.xhr);
});
document.body.addEventListener("htmx:afterSwap", pictures);
pictures();

function reason(answer) {
  const page = new DOMParser().parseFromString(answer.responseText, "text/html");
  return page.querySelector("main p")?.textContent ?? "The node did not answer. Try again.";
}

/** The pictures are embedded in the page, because the server keeps nothing. */
function pictures() {
  document.querySelectorAll("img[data-picture]").forEach((one) => {
    const bytes = Uint8Array.from(atob(one.dataset.picture), (letter) => letter.charCodeAt(0));
    one.src = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    one.removeAttribute("data-picture");
  });
}
