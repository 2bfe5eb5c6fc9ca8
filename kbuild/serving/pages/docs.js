"use strict";
// The examples with the address that this page has, behind whatever proxy.
const here = new URL(".", location.href).href.replace(/\/$/, "");
for (const code of document.querySelectorAll("[data-base]")) {
  code.textContent = code.textContent.replaceAll(code.dataset.base, here);
}
const said = document.getElementById("said");
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    const code = document.getElementById(button.dataset.of);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      said.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
      said.textContent = "The text is selected: copy it with the keyboard";
    }
    setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 2000);
  });
}
